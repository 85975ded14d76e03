"""Forecasts on a graph of sensors."""
