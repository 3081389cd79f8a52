"""Logs of ROS: messages with times, cameras and frames."""
