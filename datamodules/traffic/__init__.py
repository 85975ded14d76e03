"""Series of sensors on a graph."""

CLASSES = {
    "Chickenpox": "chickenpox",
    "SensorDiffusion": "sensor_diffusion",
    "Traffic": "traffic",
}
"""Public data modules -> the module of this package that defines them."""
