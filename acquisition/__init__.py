"""The night: recipe → engine → store and log, report, command line. ``app.py`` alone wires the house together."""
