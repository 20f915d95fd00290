"""Measuring: quality, differences between outputs, time and memory, the machine itself."""
