"""What runtimes take: rules with their sources, the layers that break them, and the scheme that would mend it."""
