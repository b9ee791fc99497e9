"""A chat whose answers come word by word, and whose model stops when nobody reads them any more.

    pip install 'natsbridge[flask,server]'
    cd examples/flask_chat
    nats-server &
    flask --app app natsbridge worker &
    flask --app app run

Then http://127.0.0.1:5000. Press "Stop", or close the tab, and look at what the worker prints.
"""

from __future__ import annotations

import time
from typing import Iterator

from flask import Flask, Response, render_template, request

from natsbridge import ClientOfflineError, ResponseSender, StreamRequest
from natsbridge.contrib.flask import NatsBridge

app = Flask(__name__)
app.config.from_prefixed_env()  # FLASK_NATSBRIDGE_SERVERS, if it is not nats://127.0.0.1:4222
bridge = NatsBridge(app)


@app.get("/")
def page() -> str:
    return render_template("chat.html")


@app.get("/answer")
def answer() -> Response:
    return bridge.stream_response("chat.answer", request.args.get("question", "").encode(), event="token", timeout=300)


# -- the worker: flask natsbridge worker ------------------------------------------------------------------------------


@bridge.stream("chat.answer", queue="models", max_workers=4)
def generate(question: StreamRequest, sender: ResponseSender) -> None:
    tokens = 0
    try:
        for token in model(question.data.decode()):
            sender.send(token.encode())  # raises ClientOfflineError when nobody reads any more
            tokens += 1
    except ClientOfflineError as gone:  # only to show it: a handler need not catch this
        print(f"stopped after {tokens} tokens: {gone.reason}", flush=True)
        raise
    print(f"answered in {tokens} tokens", flush=True)


ANSWER = """\
You asked: “{question}”

Let me think about that for a while. A model like this one makes its answer word by word, and every word costs time and \
money, whether anybody reads it or not. That is why this one looks up after each word: as long as your browser is there \
it goes on, and when you press Stop, close the tab or lose your connection, it is told so within a millisecond, and rests.

Between the two of us are a web server and a message broker, and neither of them knows what a language model is. All it \
takes is that the hint “nobody listens any more” travels all the way back, even while no word is on its way."""


def model(question: str) -> Iterator[str]:
    """Stands in for a language model: takes its time, and is not very clever."""
    for token in ANSWER.format(question=question.strip() or "…").split(" "):
        time.sleep(0.03)
        yield token + " "


if __name__ == "__main__":
    app.run()
