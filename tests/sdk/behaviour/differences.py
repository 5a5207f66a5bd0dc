"""What a runtime has not, or does otherwise, and who says so. A check that needs it is not run for that runtime.

Keys are what a check is marked to need; values are runtimes with the reason and its source.
"""

GUIDE = "https://docs.aws.amazon.com/lambda/latest/dg/"
# Streams are for "Node.js managed runtimes" and for custom runtimes that send the header of the Runtime API.
STREAMS = ("Lambda streams the answers of Node.js and of custom runtimes only", GUIDE + "configuration-response-streaming.html")
BREF = ("the handler's shape has no streams", "https://bref.sh/docs/runtimes/function")
WASI = ("a program runs anew for each call", "docs/webassembly.md")
SIGNALS = ("WASI has no signals", "https://github.com/WebAssembly/WASI")
PROGRAM = ("a package without a program is one of a custom runtime", "docs/webassembly.md")
SHARED = ("calls share an environment", "docs/web-servers.md")

DIFFERENCES = {
    # What the program keeps between two calls.
    "state": {"wasm": WASI, "wasi-http": WASI},
    # Ends of a process that no program can bring about.
    "signals": {"wasm": SIGNALS, "wasi-http": SIGNALS},
    # An end that is an error although its code is 0: that of a command is its answer.
    "exit 0": {"wasm": WASI, "wasi-http": WASI},
    # An initialisation apart from the call.
    "init": {"wasm": WASI, "wasi-http": WASI},
    # An entry point that may be missing when a call comes, instead of at the deployment.
    "entry point": {
        "wasm": PROGRAM, "wasi-http": PROGRAM,
        "web": ("the command is a shell's", "docs/web-servers.md"),
    },
    "streams": {"python": STREAMS, "python-up": STREAMS, "java": STREAMS, "ruby": STREAMS, "php": BREF, "image-python": STREAMS},
    # An object without members that is not a list.
    "empty objects": {"php": ("arrays are lists and maps alike", "https://www.php.net/manual/en/language.types.array.php")},
    # Strings that are no Unicode, which JSON can escape.
    "half surrogates": {
        "wasi-http": ("serde_json refuses them as a string", "https://docs.rs/serde_json"),
        "ruby": ("its JSON refuses it", "https://github.com/ruby/json"),
        "php": ("its JSON refuses it", "https://www.php.net/manual/en/function.json-last-error.php"),
    },
    # The client's context.
    "client context": {"php": ("the handler's shape has none", "https://bref.sh/docs/runtimes/function")},
    # One call at a time.
    "alone": {"web": SHARED},
}


def has(runtime, *needed):
    """Whether a runtime has all of what a check needs."""
    return not any(runtime.name in DIFFERENCES[what] for what in needed)
