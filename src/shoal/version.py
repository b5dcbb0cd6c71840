"""Version: of this release, read by the build, `status` and the hello."""

__version__ = "0.1.0"
