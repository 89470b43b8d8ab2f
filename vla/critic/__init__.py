"""The critic: what is wrong with a motion or with a robot's actions, before anybody learns from them or plays them."""
