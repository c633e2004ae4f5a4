"""Connections to brokers. These carry only hints and copies of what PostgreSQL stores."""
