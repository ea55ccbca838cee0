"""The emulated platform itself, without any worker of ours."""
