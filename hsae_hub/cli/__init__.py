"""The command `hsae`: one file a group of commands, every heavy import inside a command."""
