"""Tracking of runs in MLflow. The only folder that imports it."""
