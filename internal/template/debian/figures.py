"""Matplotlib's backend in a sandbox: Agg, and a show() that saves figures.

There is no display. So each figure that is shown is written to a file that the
run returns, /output/figure_1.png and so on; what is there already is left alone.
As on a display, a show() that would wait for the user to close the figures
leaves none open. Until then a figure keeps its file: when it is shown again, as
plt.pause() does, the file is written again.
"""

import io
import itertools
import os

from matplotlib import is_interactive
from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

DIRECTORY = "/output"


def _open_new():
    for number in itertools.count(1):
        try:
            return open(os.path.join(DIRECTORY, f"figure_{number}.png"), "xb")
        except FileExistsError:
            pass


class FigureManager(FigureManagerBase):
    _path = None

    def show(self):
        image = io.BytesIO()
        self.canvas.figure.savefig(image, format="png")
        with open(self._path, "wb") if self._path else _open_new() as file:
            self._path = file.name
            file.write(image.getbuffer())

    @classmethod
    def pyplot_show(cls, *, block=None):
        for manager in Gcf.get_all_fig_managers():
            manager.show()
        if not is_interactive() if block is None else block:
            Gcf.destroy_all()


class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager
