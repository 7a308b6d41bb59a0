"""Source code is shown as it is written, without the secrets in its literals."""

from __future__ import annotations

import pytest

from signalbox.serialization.redaction import Redactor
from signalbox.serialization.source_code import redact_source

REDACTOR = Redactor()


@pytest.mark.parametrize(
    "code",
    [
        'print("User Password:", user.password)',
        "password = request.POST['password']",
        "logger.info('token: %s', token)",
        "print(f'password={password}')",
        'print("password={}".format(user.password))',
        "fields = ('username', 'password', 'email')",
        "if token == other.token and not password: pass",
        "def f(password: str, token: 'Token' = None): ...",
        "send(password=password, api_key=settings.API_KEY)",
        "password = ''",
        "token_count = 12345",
        'def f():\n    """Send it.\n\n    password: the user\'s password\n    """\n',
        "# the password: see below",
        "",
    ],
)
def test_code_without_a_secret_value_is_shown_as_it_is(code: str) -> None:
    assert code == redact_source(code, REDACTOR)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("password = 'hunter2'", "password = '[redacted]'"),
        ("connect(user='ada', password='hunter2')", "connect(user='ada', password='[redacted]')"),
        ("x = {'password': 'hunter2', 'n': 1}", "x = {'password': '[redacted]', 'n': 1}"),
        ("API_KEY: str = 'hunter2'", "API_KEY: str = '[redacted]'"),
        ("environ['SECRET_KEY'] = 'hunter2'", "environ['SECRET_KEY'] = '[redacted]'"),
        ("os.environ.get('SECRET_KEY', 'hunter2')", "os.environ.get('SECRET_KEY', '[redacted]')"),
        ("if password == 'hunter2': pass", "if password == '[redacted]': pass"),
        ("pin = 123456", "pin = [redacted]"),
        ("get('https://ada:hunter2@host/')", "get('https://ada:[redacted]@host/')"),
        ("run('mysql --password hunter2')", "run('mysql --password [redacted]')"),
        ("x = 1  # password=hunter2", "x = 1  # password=[redacted]"),
        ('password = """a\nhunter2"""\nx = 1', 'password = """[redacted]\n"""\nx = 1'),
        ("x = [\npassword=hunter2", "x = [\npassword=[redacted]"),
    ],
)
def test_a_literal_secret_is_hidden(code: str, expected: str) -> None:
    assert expected == redact_source(code, REDACTOR)


def test_a_well_known_credential_in_source_is_hidden() -> None:
    credential = "gh" + "p_" + "aB3dE" * 8
    for code in (f"x = '{credential}'", f"# {credential}", f"f('''\n{credential}\n''')", f"f(f'{credential} {{x}}')"):
        clean = redact_source(code, REDACTOR)
        assert credential not in clean
        assert code.count("\n") == clean.count("\n")
