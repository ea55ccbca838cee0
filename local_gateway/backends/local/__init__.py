"""A worker on this machine as a supervised child process."""
