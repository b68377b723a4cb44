"""epolllab's server as an arm that runs on another Python; the port is printed.

The argument has the options as JSON.
"""

import json
import sys
import threading

import epolllab

server = epolllab.start_server(**json.loads(sys.argv[1]))
print(server.address[1], flush=True)
threading.Event().wait()  # until the process is killed
