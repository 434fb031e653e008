"""Networks of the paper's tables that BasicSR does not have."""
