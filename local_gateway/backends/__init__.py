"""Where answers come from: one file for each type of target."""
