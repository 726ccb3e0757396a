"""Users. Other packages take from here what they need, and nothing from further inside."""

from app.users.auth import CurrentSuperuser, CurrentUser, WebSocketUser

__all__ = ["CurrentSuperuser", "CurrentUser", "WebSocketUser"]
