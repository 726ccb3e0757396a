"""Settings of tests are fixed, in whatever way they are written, and changed in one line."""

from tests.projects import Project
from tests.traps.inner import run_inner

CONFIGURATION = """
from functools import cache, lru_cache

from pydantic import AliasChoices, BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Database(BaseModel):
    host: str = "localhost"
    port: int = 5432


class Config(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="SHOP_", env_nested_delimiter="__", env_file=".env", secrets_dir="secrets"
    )

    db: Database = Database()
    name: str = "shop"
    token: str = Field(default="none", validation_alias=AliasChoices("TOKEN", "API_TOKEN"))
    password: str = "none"


class Mail(BaseSettings):
    host: str = "localhost"


class Whole(BaseSettings):
    mail: Mail = Field(default_factory=Mail)


@cache
def get_config() -> Config:
    return Config()


@lru_cache
def get_whole() -> Whole:
    return Whole()


config = Config()
cached = get_config(), get_whole()
"""

POISON = {
    "SHOP_DB__HOST": "poison",
    "shop_db__port": "666",
    "SHOP_NAME": "poison",
    "API_TOKEN": "poison",
    "HOST": "poison",
}

SEALED = """
    import os

    import pytest
    from pydantic import ValidationError

    import configuration


    def test_all_of_them_are_sealed():
        for config in (configuration.Config(), configuration.get_config(), configuration.config):
            assert config.db.host == "localhost"
            assert config.db.port == 5432
            assert config.name == "of tests"
            assert config.token == "none"
            assert config.password == "none"
        assert configuration.Whole().mail.host == "localhost"
        assert configuration.get_whole().mail.host == "localhost"


    def test_who_kept_them_has_the_same_ones():
        assert configuration.cached[0] is configuration.get_config()
        assert configuration.cached[0].name == "of tests"


    @pytest.mark.parametrize("run", [1, 2])
    async def test_override(app, client, override_settings, run):
        assert app.state.settings.access_token_lifetime == 3600
        override_settings(access_token_lifetime=1)
        override_settings(smtp_port=25, smtp_host="mail")
        assert app.state.settings.access_token_lifetime == 1
        assert app.state.settings.smtp_port == 25


    def test_override_is_undone(app):
        assert app.state.settings.smtp_port == 1025


    def test_override_checks_the_value(override_settings):
        with pytest.raises(ValidationError, match="greater than 0"):
            override_settings(access_token_lifetime=-1)


    def test_override_of_what_does_not_exist(override_settings):
        override_settings(acess_token_lifetime=1)


    def test_environment_variable(app, monkeypatch):
        monkeypatch.setenv("ACCESS_TOKEN_LIFETIME", "1")
        assert app.state.settings.access_token_lifetime == 1
"""


def test_sealed_and_overridden(copy_of_each: Project) -> None:
    project = copy_of_each
    (project.path / "configuration.py").write_text(CONFIGURATION)
    (project.path / "secrets").mkdir()
    (project.path / "secrets" / "shop_password").write_text("poison")
    (project.path / ".env").write_text("SHOP_NAME=poison\n")
    project.edit("tests/fixtures/environment.py", "\n        Settings,\n", "\n        CLASSES,\n")
    project.edit(
        "tests/fixtures/environment.py",
        "from testkit.environment import seal\n",
        "from configuration import Config, Whole\nfrom testkit.environment import seal\n"
        "CLASSES = [Settings, Config, Whole]\n",
    )
    project.edit(
        "tests/fixtures/environment.py",
        '            "ENVIRONMENT": "test",\n',
        '            "ENVIRONMENT": "test",\n            "SHOP_NAME": "of tests",\n',
    )

    inner = run_inner(project, SEALED, **POISON)

    inner.assert_says(
        "test_override_of_what_does_not_exist",
        "Settings has no setting `acess_token_lifetime`; did you mean `access_token_lifetime`?",
    )
    inner.assert_says(
        "test_environment_variable",
        "Hint: `monkeypatch.setenv` comes too late",
        r"override_settings\(access_token_lifetime=\.\.\.\)",
    )
    wrong = {"test_override_of_what_does_not_exist", "test_environment_variable"}
    inner.assert_passed(*inner.outcomes.keys() - wrong)


def test_setting_that_tests_lack_is_named(project: Project) -> None:
    before = "    environment: Literal"
    project.edit("app/settings.py", before, f"    sms_api_key: SecretStr\n{before}")
    refused = project.pytest("tests/test_settings.py", check=False).stdout
    assert "sms_api_key" in refused
    assert "given to `seal`" in refused
    assert "Traceback" not in refused

    before = '            "ENVIRONMENT": "test",\n'
    given = f'{before}            "SMS_API_KEY": "of tests",\n'
    project.edit("tests/fixtures/environment.py", before, given)
    row = "| `SMS_API_KEY` | | of the provider |\n| `SECRET_KEY`"
    project.edit("docs/operating.md", "| `SECRET_KEY`", row)
    project.pytest("tests/test_settings.py", "tests/test_cli.py")
    project.run("mypy", "app", "tests/test_settings.py", "tests/fixtures")
