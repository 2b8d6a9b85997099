"""What the default template has: libraries, a compiler, fonts, and figures that are shown."""

import io

import pytest
from PIL import Image

EVERY_LIBRARY = """
import io
import docx, jinja2, lxml.html, pandas, plotly.graph_objects, pyarrow, statsmodels.api, sympy, tabulate, tqdm, yaml

frame = pandas.DataFrame({"a": [1, 2], "b": [3, 5]})
frame.to_parquet("frame.parquet")
assert pandas.read_parquet("frame.parquet").equals(frame)
assert pandas.read_html(io.StringIO(frame.to_html(index=False)))[0].equals(frame)
assert "|    |   a |   b |" in frame.to_markdown()
assert plotly.graph_objects.Figure(plotly.graph_objects.Bar(y=[1])).to_html().startswith("<!doctype html>")
assert pyarrow.array([1, None]).null_count == 1
assert round(statsmodels.api.OLS([1, 2, 3.1], [[1, 1], [1, 2], [1, 3]]).fit().params[1], 2) == 1.05
assert str(sympy.diff("x**2", "x")) == "2*x"
assert tabulate.tabulate([[1]]) == "-\\n1\\n-"
assert sum(tqdm.tqdm([1, 2], file=io.StringIO())) == 3
assert yaml.safe_load("a: [1]") == {"a": [1]}
assert jinja2.Template("{{ a }}").render(a=1) == "1"
document = docx.Document()
document.add_paragraph("said")
document.save("a.docx")
assert docx.Document("a.docx").paragraphs[0].text == "said"
print("all")
"""

COMPILE = r"""
cat > hello.c <<'END'
#include <stdio.h>
#include <math.h>
int main(int argc, char **argv) { printf("%.1f\n", sqrt(argc)); }
END
printf 'hello: hello.c\n\tgcc -Wall -o hello hello.c -lm\n' > Makefile
make -s && ./hello 2 3 4
"""

SHOW = """
import matplotlib.pyplot as plt
plt.plot([1, 2]); plt.title('one')
plt.figure(figsize=(3, 2)); plt.bar(['日本語', '中文', '한국어'], [1, 2, 3])
plt.show()
plt.show()
assert plt.get_fignums() == []
plt.plot([2, 1]); plt.show()
"""


def pictures(client, result):
    return {f.filename: Image.open(io.BytesIO(client.files.download(f.file_id))) for f in result.files}


def run(client, session, code, way):
    if way == "python":
        return client.run(code, session_id=session)
    python = "python3"
    if way == "venv":
        python = "/tmp/venv/bin/python"
    venv = "test -d /tmp/venv || python3 -m venv --system-site-packages --without-pip /tmp/venv\n" if way == "venv" else ""
    return client.run(f"{venv}{python} - <<'END'\n{code}\nEND", language="bash", session_id=session)


@pytest.fixture
def session(client):
    made = client.sessions.create().session_id
    yield made
    client.sessions.delete(made)


def test_the_libraries_do_what_they_are_for(client):
    result = client.run(EVERY_LIBRARY)
    assert (result.stdout, result.stderr, result.return_code) == ("all\n", "", 0)


def test_c_is_compiled(client):
    result = client.run(COMPILE, language="bash")
    assert (result.stdout, result.stderr, result.return_code) == ("2.0\n", "", 0)


@pytest.mark.parametrize("way", ["python", "bash", "venv"])
def test_a_figure_that_is_shown_is_a_file(client, session, way):
    result = run(client, session, SHOW, way)
    assert (result.stderr, result.return_code) == ("", 0)
    shown = pictures(client, result)
    assert {name: image.size for name, image in shown.items()} == {
        "figure_1.png": (640, 480), "figure_2.png": (300, 200), "figure_3.png": (640, 480),
    }  # fmt: skip
    assert all(len(image.convert("RGB").getcolors(1 << 24)) > 2 for image in shown.values())

    again = run(client, session, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", way)
    assert [f.filename for f in again.files] == ["figure_4.png"]


def test_a_figure_takes_no_other_files_name(client, session):
    code = "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.savefig('/output/figure_1.png')\nplt.savefig('/output/figure_3.png', dpi=50)\n"
    result = client.run(code + "plt.show()\nplt.plot([2])\nplt.show()", session_id=session)
    sizes = {name: image.size for name, image in pictures(client, result).items()}
    assert sizes == {f"figure_{n}.png": (320, 240) if n == 3 else (640, 480) for n in (1, 2, 3, 4)}


def test_a_figure_that_stays_open_has_one_file(client):
    code = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
for i in range(3):
    axes.plot([i, 2]); plt.pause(0.01)
plt.show(block=False)
other = plt.figure(figsize=(2, 2)); other.show(); other.show()
plt.ion(); plt.show(); plt.ioff()
figure.savefig('/output/last.png')
plt.show()
"""
    result = client.run(code)
    shown = pictures(client, result)
    assert (result.stderr, sorted(shown)) == ("", ["figure_1.png", "figure_2.png", "last.png"])
    assert shown["figure_1.png"].tobytes() == shown["last.png"].tobytes()


@pytest.mark.parametrize(
    "env, first", [({}, "import matplotlib; matplotlib.use('Agg')"), ({}, "plt.switch_backend('svg')"), ({"MPLBACKEND": "Agg"}, "")]
)
def test_another_backend_is_the_users_choice(client, env, first):
    result = client.run(f"import matplotlib.pyplot as plt\n{first}\nplt.plot([1, 2]); plt.show(); print(plt.get_fignums())", env_vars=env)
    assert (result.stdout, result.files) == ("[1]\n", [])


def test_a_figure_that_cannot_be_drawn_or_written_leaves_no_file(client):
    bad = client.run("import matplotlib.pyplot as plt\nplt.title('$\\\\nothing$')\nplt.show()")
    assert bad.return_code == 1 and "ValueError" in bad.stderr and bad.files == []
    closed = client.run("import os, matplotlib.pyplot as plt\nos.chmod('/output', 0o555)\nplt.plot([1])\nplt.show()")
    assert closed.return_code == 1 and "Permission denied: '/output/figure_1.png'" in closed.stderr


@pytest.mark.parametrize("family", ["", "plt.rcParams['font.family'] = 'WenQuanYi Zen Hei'"])
def test_chinese_japanese_and_korean_are_drawn(client, family):
    code = f"""
import matplotlib.pyplot as plt
{family}
for i, text in enumerate(['国', '語', 'か', '한', '글', '?']):
    for weight in 'normal', 'bold':
        plt.figure(figsize=(1, 1)).text(0.3, 0.3, text, fontsize=20, weight=weight)
plt.show()
"""
    result = client.run(code)
    shown = pictures(client, result)
    assert (result.stderr, len(shown)) == ("", 12)
    normal = [shown[f"figure_{n}.png"].tobytes() for n in range(1, 13, 2)]
    assert len(set(normal)) == 6, "some characters look the same: the font does not have them"
