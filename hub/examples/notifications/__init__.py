"""Notifications for one user."""
