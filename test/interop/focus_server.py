"""A stand-in for focus-server: FastAPI under real uvicorn, with the schemas of the real one and a fiber that a test
connects and disconnects.

    /usr/bin/python3 test/interop/focus_server.py [PORT]

It listens on loopback only and prints its port as the first line of stdout. The routes under /_control/ belong to the
test; requests to them are neither counted nor recorded.
"""

import hashlib
import json
import os
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.routing import Route

SAMPLES = Path(__file__).parent / "samples"
METADATA_FILES = {
    "present": "live_metadata.ready.json",
    "partial": "live_metadata.partial.json",
    "missing": "live_metadata.waiting.json",
}
# The start of the recordings; a historic job that ends earlier gets a 404.
FIRST_RECORDING = 1_700_000_000


def sample(name: str) -> Any:
    return json.loads((SAMPLES / name).read_text())


class World:
    """The state that a test sets and reads."""

    def __init__(self) -> None:
        self.fiber = "present"
        self.reset()

    def reset(self) -> None:
        """Forgets the arrived requests and restarts the job numbers; the fiber does not change."""
        self.handled: Counter = Counter()
        self.received: List[Tuple[str, str]] = []
        self.jobs: List[str] = []

    @property
    def metadata(self) -> Dict[str, Any]:
        return sample(METADATA_FILES[self.fiber])


world = World()


class Recorder:
    """Records the method and the raw target of every request, before routing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            target = raw_target(scope)
            if not target.startswith("/_control/"):
                world.received.append((scope["method"], target))
        await self.app(scope, receive, send)


def raw_target(scope: Any) -> str:
    query = scope["query_string"]
    return (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")


class Height(BaseModel):
    height: int


class Range(BaseModel):
    min: int
    max: int


class Configuration(BaseModel):
    displayTimeAxisDuration: int
    nfftSelection: int
    displayInfo: Height
    channels: Range
    frequencyRange: Range
    start_time: Optional[int] = None
    end_time: Optional[int] = None
    view_type: Union[int, str]


class TimeRange(BaseModel):
    start_time: int
    end_time: int


app = FastAPI(title="focus-server stand-in")
app.add_middleware(Recorder)
# The origins whose pages may read the responses; by default none, like the real one.
if os.environ.get("ORIGINS"):
    app.add_middleware(
        CORSMiddleware,
        allow_origins=os.environ["ORIGINS"].split(","),
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=os.environ.get("CREDENTIALS") == "yes",
    )


@app.get("/ack")
async def ack() -> Response:
    world.handled["ack"] += 1
    return Response()


@app.get("/channels")
async def channels() -> Any:
    world.handled["channels"] += 1
    return {"lowest_channel": 1, "highest_channel": 2337}


@app.get("/live_metadata")
async def live_metadata() -> Any:
    world.handled["live_metadata"] += 1
    return world.metadata


@app.post("/configure")
async def configure(configuration: Configuration) -> Any:
    world.handled["configure"] += 1
    if world.metadata["prr"] <= 0:
        return JSONResponse(
            {"detail": "Cannot proceed: Missing required fiber metadata fields: prr"}, status_code=503
        )
    if configuration.channels.min > configuration.channels.max:
        return JSONResponse({"error": "Error parsing configuration"}, status_code=500)
    if configuration.end_time is not None and configuration.end_time < FIRST_RECORDING:
        return JSONResponse({"error": "No recording found in given time range"}, status_code=404)
    job_id = f"1-{len(world.jobs) + 1}"
    world.jobs.append(job_id)
    return {**sample("configure.response.json"), "job_id": job_id}


@app.get("/metadata/{job_id}")
async def metadata(job_id: str) -> Any:
    world.handled["metadata"] += 1
    if job_id not in world.jobs:
        return JSONResponse({"error": "Invalid job_id"}, status_code=404)
    return {**sample("configure.response.json"), "job_id": job_id}


@app.post("/recordings_in_time_range")
async def recordings_in_time_range(wanted: TimeRange) -> Any:
    world.handled["recordings_in_time_range"] += 1
    return [[wanted.start_time, wanted.end_time]]


@app.get("/get_recordings_timeline", response_class=HTMLResponse)
async def get_recordings_timeline() -> str:
    world.handled["get_recordings_timeline"] += 1
    return "<!DOCTYPE html><title>Recordings</title><p>Aufnahmen von Messstelle Süd</p>\n"


class Echo:
    """Returns the received request as JSON, for any method: a class, because then Starlette does not limit methods."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        world.handled["echo"] += 1
        answer = JSONResponse(
            {
                "method": request.method,
                "target": raw_target(scope),
                "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
                "client": request.client.host if request.client else None,
                "scheme": request.url.scheme,
                "length": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            }
        )
        await answer(scope, receive, send)


class Late:
    """A response with the status in the path: 201 and 208 as /waterfall sent them, 204 and 304 without a body."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        code = int(scope["path_params"]["code"])
        world.handled["late"] += 1
        if code == 204:
            answer = Response(status_code=code)
        elif code == 304:
            # A length without a body is allowed here: it is that of the response the client already has.
            answer = Response(status_code=code, headers={"content-length": "12", "etag": '"seen"'})
        else:
            answer = JSONResponse({"status": code}, status_code=code)
        await answer(scope, receive, send)


app.router.routes.append(Route("/echo", Echo()))
app.router.routes.append(Route("/late/{code:int}", Late()))


class Fiber(BaseModel):
    state: str


@app.put("/_control/fiber")
async def set_fiber(fiber: Fiber) -> Any:
    if fiber.state not in METADATA_FILES:
        return JSONResponse({"error": f"a fiber is one of {', '.join(METADATA_FILES)}"}, status_code=400)
    world.fiber = fiber.state
    return {"state": world.fiber}


class GivenTimes(BaseModel):
    start_time: Optional[int] = None
    end_time: Optional[int] = None


@app.post("/_control/times")
async def times(request: Request) -> Any:
    """How the model parses each of these bodies: its two times, or null if it rejects the body."""

    def read(body: str) -> Any:
        try:
            given = GivenTimes(**json.loads(body))
        except (TypeError, ValueError):
            return None
        return [given.start_time, given.end_time]

    return [read(body) for body in await request.json()]


@app.get("/_control/handled")
async def handled() -> Any:
    """How often each endpoint's handler ran, without requests that FastAPI rejected before the handler."""
    return world.handled


@app.get("/_control/received")
async def received() -> Any:
    return [{"method": method, "target": target} for method, target in world.received]


@app.post("/_control/reset")
async def reset() -> Any:
    world.reset()
    return {}


def main() -> None:
    # The protocol is explicit because asyncio disables Nagle's algorithm only if it recognises TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    # From here on connections wait in the backlog, so the port can be used as soon as it is known.
    listener.listen(2048)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()
