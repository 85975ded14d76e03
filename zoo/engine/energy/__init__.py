"""Energy, carbon, FLOPs, latency and memory of runs, of whatever method."""

from zoo.engine.energy.meter import EnergyMeter

__all__ = ["EnergyMeter"]
