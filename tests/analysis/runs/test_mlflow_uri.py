"""No password in a message, however a person wrote the URI."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import load_runs
from analysis.runs.mlflow_uri import masked
from llama.errors import UserError

WORD = st.text("abcXYZ019!$%&*()_+-=~", min_size=5, max_size=20)


@given(user=WORD, password=WORD)
def test_no_credentials_in_any_message(user: str, password: str) -> None:
    text = f"API request to http://{user}:{password}@host:5000/api failed, postgresql://{user}:{password}@db/x too"
    assert password not in masked(text)
    assert masked(text).count("***@") == 2
    assert "host:5000/api failed" in masked(text)


@pytest.mark.parametrize(
    "uri", ["http://u:hun@ter2@host/x", "http://u:hun/ter2@host/x", "mysql://host/x?password=hunter2&a=1"]
)
def test_a_password_that_is_not_quoted_as_it_should_be_stays_hidden(uri: str) -> None:
    assert "ter2" not in masked(uri)
    assert "host/x" in masked(uri)


def test_the_analysis_asks_for_an_experiment_without_the_password() -> None:
    with pytest.raises(UserError, match="name the experiment") as caught:
        load_runs("mysql+pymysql://host/db?user=me&password=hunter2")
    assert "hunter2" not in str(caught.value)
