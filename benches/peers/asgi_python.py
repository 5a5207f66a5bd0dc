"""Peer: the handler of functions/python behind uvicorn and starlette. Arguments: folder of the packages, folder, port."""
import sys

sys.path[:0] = sys.argv[1:3]
import uvicorn  # noqa: E402
from handler import handler  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.responses import Response  # noqa: E402
from starlette.routing import Route  # noqa: E402


async def hello(request):
    answer = handler({"path": request.url.path}, None)
    return Response(answer["body"], answer["statusCode"], answer["headers"])


app = Starlette(routes=[Route("/", hello)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[3]), access_log=False, log_level="error", loop="uvloop", http="httptools")
