from __future__ import annotations

import pytest

from acquisition.page.tokens import ROLES, PageTokens
from drivers.errors import InputError, StoreError


def test_tokens_are_made_once_kept_private_and_open_their_role(tmp_path):
    tokens = PageTokens(tmp_path)
    texts = {role: tokens.path(role).read_text().strip() for role in ROLES}
    assert len(set(texts.values())) == 3
    for role, text in texts.items():
        assert tokens.path(role).stat().st_mode & 0o777 == 0o600
        assert len(text.replace("-", "")) == 25
        assert PageTokens(tmp_path).role_of(f" {text.upper()}\n") == role
    for wrong in ("", "guess", texts["operator"][:-1], texts["operator"] + "x", "\udce9"):
        with pytest.raises(InputError, match="this token opens nothing"):
            tokens.role_of(wrong)


def test_a_deleted_token_is_made_anew_and_the_old_one_opens_nothing(tmp_path):
    old = PageTokens(tmp_path).path("operator").read_text()
    PageTokens(tmp_path).path("operator").unlink()
    fresh = PageTokens(tmp_path)
    assert fresh.path("operator").read_text() != old
    with pytest.raises(InputError):
        fresh.role_of(old)


def test_a_token_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    path = PageTokens(tmp_path).path("operator")
    path.chmod(0o644)
    with pytest.raises(InputError, match="others can read this token"):
        PageTokens(tmp_path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(InputError, match="expected a token of 20 characters at least; got 5"):
        PageTokens(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "page").write_text("a file")
    with pytest.raises(StoreError, match="tokens cannot be kept"):
        PageTokens(tmp_path)
