"""Forecasts that are written down before the runs exist, and held against them after."""
