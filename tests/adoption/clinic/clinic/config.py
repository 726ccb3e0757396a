import os

DATABASE_URL = os.environ["DATABASE_URL"]
SECRET = os.environ["SECRET"]
BCRYPT_ROUNDS = int(os.getenv("BCRYPT_ROUNDS", "12"))
