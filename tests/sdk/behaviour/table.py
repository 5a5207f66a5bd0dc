"""The runtimes of the suite. A further one is a file beside this one, and a line here."""

from .custom import Go, Shell
from .images import GoImage, PythonImage
from .java import Java
from .nodejs import Module, Node
from .php import Php
from .python import Python
from .ruby import Ruby
from .wasm import Command, Component
from .web import Web

RUNTIMES = [
    Python(), Python("python-up", "up"), Node(), Module(), Java(), Ruby(), Php(), Go(), Shell(), GoImage(), PythonImage(), Command(), Component(), Web(),
]
