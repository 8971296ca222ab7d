"""Topics: messages for all who subscribed, in one process or on many hosts."""
