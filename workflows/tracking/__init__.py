"""Tracking: what runs leave in MLflow. The only folder that imports it."""
