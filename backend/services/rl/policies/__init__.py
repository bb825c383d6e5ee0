"""Policies that decide who takes which booking: baselines, solvers and learned ones."""
