"""Feeds a stream and consumes it as a group, with the official client, until killed.

    consumer.py URL STREAM GROUP
"""

import sys
import threading
import time

from kurrentdbclient import KurrentDBClient, NewEvent, StreamState


def feed(url, stream):
    client = KurrentDBClient(url)
    while True:
        client.append_to_stream(stream, current_version=StreamState.ANY, events=[NewEvent("Done", b"{}")])
        time.sleep(0.05)


def main(url, stream, group):
    client = KurrentDBClient(url)
    client.append_to_stream(stream, current_version=StreamState.ANY, events=[NewEvent("Begun", b"{}")])
    # A checkpoint every few messages, so that there is one within seconds.
    client.create_subscription_to_stream(group, stream, from_end=False, min_checkpoint_count=5, checkpoint_after=0.5)
    threading.Thread(target=feed, args=(url, stream), daemon=True).start()
    refused = set()
    # A new leader ends what the one before served: its consumers come again.
    while True:
        try:
            with client.read_subscription_to_stream(group, stream) as messages:
                for message in messages:
                    # One in ten fails once, so that something is delivered again.
                    if message.stream_position % 10 == 0 and message.id not in refused:
                        refused.add(message.id)
                        messages.nack(message, "retry")
                    else:
                        messages.ack(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, try again
            print(f"consuming begins anew: {error!r}", file=sys.stderr)
            time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
