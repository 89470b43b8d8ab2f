"""Writing episodes as a LeRobot dataset."""
