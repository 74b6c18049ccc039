from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from f5_worker.errors import SettingsError
from f5_worker.settings import Settings, region_of

S3 = {"S3_BUCKET": "b", "AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}


def test_no_settings_means_no_bucket_and_the_real_model() -> None:
    settings = Settings.from_env({})
    assert settings.s3 is None
    assert settings.cache_bucket is None
    assert settings.model == "F5TTS_v1_Base"
    assert settings.warnings == ()


def test_whole_s3_settings_are_taken_path_style_for_an_own_endpoint() -> None:
    s3 = Settings.from_env(S3).s3
    assert s3 is not None
    assert (s3.bucket, s3.endpoint_url, s3.region, s3.path_style) == ("b", "http://127.0.0.1:1", "us-east-1", True)


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_set_s3_settings_name_what_is_missing_and_show_no_secret(missing: str) -> None:
    with pytest.raises(SettingsError, match=missing) as caught:
        Settings.from_env({**S3, missing: ""})
    assert "very-secret" not in str(caught.value)


def test_credentials_without_a_bucket_are_a_warning() -> None:
    settings = Settings.from_env({**S3, "S3_BUCKET": ""})
    assert settings.s3 is None
    assert "S3_BUCKET" in settings.warnings[0]


@pytest.mark.parametrize(
    ("key_id", "region"),
    [
        ("005" + "a1b2c3d4e5f6a7b8c9d0e1", "us-east-005"),  # an application key begins with its cluster
        ("003" + "a1b2c3d4e5f6a7b8c9d0e1", "eu-central-003"),
        ("009" + "a1b2c3d4e5f6a7b8c9d0e1", "<region>"),
        ("005b86aeb2be", "<region>"),  # a master key does not
    ],
)
def test_a_b2_key_without_an_endpoint_gets_the_line_to_add(key_id: str, region: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**S3, "AWS_ENDPOINT_URL": "", "AWS_ACCESS_KEY_ID": key_id})
    assert f"add AWS_ENDPOINT_URL=https://s3.{region}.backblazeb2.com" in str(caught.value)


def test_every_bad_variable_is_reported_at_once() -> None:
    env = {
        "FLASH_ATTN": "maybe",
        "URL_EXPIRES_S": "soon",
        "ENABLE_S3_MODEL_CACHE": "2",
        "MODEL_CACHE_DIR": "models",
        "S3_OUTPUT_PREFIX": "../x",
    }
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    assert all(name in str(caught.value) for name in env)


def test_an_endpoint_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({**S3, "AWS_ENDPOINT_URL": "https://user:hunter2@host"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://h:99999", "http://h:abc", "https://s3..backblazeb2.com", "s3.example.com", "ftp://h", "http://h:0"]
)
def test_an_endpoint_that_cannot_be_connected_to_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="AWS_ENDPOINT_URL"):
        Settings.from_env({**S3, "AWS_ENDPOINT_URL": endpoint})


def test_prefixes_that_lie_in_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="S3_OUTPUT_PREFIX"):
        Settings.from_env({"S3_MODELS_PREFIX": "f5/", "S3_OUTPUT_PREFIX": "f5/output"})


def test_repr_hides_the_keys() -> None:
    text = repr(Settings.from_env(S3))
    assert "very-secret" not in text
    assert "key-id" not in text


def test_the_cache_can_be_switched_off_and_the_bucket_kept_for_results() -> None:
    settings = Settings.from_env({**S3, "ENABLE_S3_MODEL_CACHE": "false"})
    assert settings.cache_bucket is None
    assert settings.s3 is not None


def test_prefixes_end_with_a_slash() -> None:
    assert Settings.from_env({"S3_MODELS_PREFIX": "a/b"}).models_prefix == "a/b/"


def test_an_absolute_cache_dir_is_taken() -> None:
    assert Settings.from_env({"MODEL_CACHE_DIR": "/data/x"}).cache_dir == Path("/data/x")


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://abc.r2.cloudflarestorage.com", "auto"),
        ("http://127.0.0.1:9000", "us-east-1"),
        ("", "us-east-1"),
    ],
)
def test_region_follows_from_the_endpoint(endpoint: str, region: str) -> None:
    assert region_of(endpoint) == region


@pytest.mark.parametrize(
    ("asked", "level", "warnings"),
    [(None, "INFO", 0), ("warn", "WARN", 0), ("NOTSET", "NOTSET", 0), ("DEBUG", "INFO", 1), ("trace", "INFO", 1)],
)
def test_the_sdk_never_logs_at_a_level_that_holds_results(asked: str | None, level: str, warnings: int) -> None:
    settings = Settings.from_env({"RUNPOD_LOG_LEVEL": asked} if asked else {})
    assert (settings.sdk_log_level, len(settings.warnings)) == (level, warnings)


def test_a_file_of_certificates_is_taken() -> None:
    roots = Path(certifi.where())
    assert Settings.from_env({"AWS_CA_BUNDLE": str(roots)}).ca_file == roots
