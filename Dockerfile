# F5-TTS worker for RunPod serverless. The default base is public; any image with Python 3.11 and pip works:
#     docker build --build-arg BASE_IMAGE=my-registry/python:3.11 -t f5-tts-worker .
ARG BASE_IMAGE=python:3.11.13-slim-bookworm
FROM ${BASE_IMAGE}

# BAKE_FLASH_ATTN=1 puts flash-attn into the image instead of fetching it at the first boot on a capable GPU.
ARG BAKE_FLASH_ATTN=0
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 RUNPOD_LOG_LEVEL=INFO
# Debian's own Python has no `python`, which CMD names.
RUN command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
WORKDIR /app

# The pins change rarely and weigh gigabytes; the code changes often and weighs kilobytes.
COPY requirements.txt requirements-nodeps.txt ./
RUN python3 -m pip install -r requirements.txt && python3 -m pip install --no-deps -r requirements-nodeps.txt

COPY f5_worker ./f5_worker
COPY model_cache_init.py s3_utils.py handler.py test_input.json LICENSE ./
RUN python3 -m compileall -q . && if [ "$BAKE_FLASH_ATTN" = "1" ]; then python3 -m f5_worker.wheels; fi

# Exec form: Python is PID 1 and SIGTERM reaches it; a shell would swallow the signal.
CMD ["python", "-u", "model_cache_init.py"]
