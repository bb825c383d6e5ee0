"""Reinforcement learning for patient-transport dispatch: a library that a backend hosts.

Importing this package is free: nothing heavy (NumPy, Numba, Gymnasium, Torch) is loaded until
a room is entered. See ``README.md`` beside this file for the map.
"""

__version__ = "0.1.0"
