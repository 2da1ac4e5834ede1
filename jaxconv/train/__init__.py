"""Training real networks on real data: ``python -m jaxconv.train RECIPE``.

One loop (``loop``: optax, progress, Ctrl-C), one form of checkpoint (``checkpoint``: orbax), one
set of pictures (``plots``) and of measurements (``report``); on several devices and in several
processes as ``placement`` and ``processes`` say; a recipe is a small module of this
package that declares its data, network, loss and report (``recipe.Recipe``).
"""

# Each recipe's module, and the packages it needs beside the loop's own.
RECIPES = {
    "digits": ("mlxtend",),
    "mobilenet": ("mlxtend",),
    "context": ("mlxtend",),
    "wavenet": ("heartpy",),
    "bytenet": ("num2words",),
}
