"""What a test suite needs to run against real servers, and what tells that it left nothing behind."""
