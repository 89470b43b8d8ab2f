"""How good a policy is, and what it uses: open loop on recordings, closed loop in environments."""
