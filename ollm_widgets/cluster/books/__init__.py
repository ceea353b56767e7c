"""Who holds what on a cluster, and where requests go: rules and a state machine, without Ray."""
