# DreamerV2 on an NVIDIA GPU; it also runs without one. The host needs its NVIDIA driver and the
# NVIDIA container toolkit. No image has been built from this file yet: say so if it fails.
#
#   docker build -t dreamerv2 .
#   mkdir -p ~/logdir    # made by docker, it would belong to root
#   docker run -it --rm --gpus all -v ~/logdir:/logdir dreamerv2 \
#     --logdir /logdir/atari_pong/dreamerv2/1 --configs atari --task atari_pong
#
# The user in the image has the id 1000. Where yours is another, add --user "$(id -u):$(id -g)".
ARG TENSORFLOW_VERSION=2.21.0
FROM tensorflow/tensorflow:${TENSORFLOW_VERSION}-gpu

# MuJoCo draws through EGL: on the GPU's driver, or in software (Mesa) where there is none.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      libegl1 libgl1 libgl1-mesa-dri libgles2 \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /usr/share/glvnd/egl_vendor.d \
 && printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}\n' \
      > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
ENV MUJOCO_GL=egl \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics

# The dependencies first, so that a change of the code does not install them again. The games' ROMs
# come inside the ale-py wheel.
WORKDIR /app
COPY setup.py pyproject.toml LICENSE ./
COPY dreamerv2/__init__.py dreamerv2/
RUN python3 -m pip install --no-cache-dir '.[gpu,dmc,crafter,minigrid,video]'

# TensorFlow 2.21 does not look for cuSOLVER where pip puts it (dreamerv2/common/nn/device.py). And:
# The image's own cuDNN is version 8 and its CUDA 12.3, but TensorFlow since 2.18 wants cuDNN 9. The
# `gpu` extra brought matching libraries: let the linker find those, and nothing of the image's before.
RUN python3 -c 'import glob, nvidia; \
print(*sorted(glob.glob(nvidia.__path__[0] + "/*/lib")), sep="\n")' \
      > /etc/ld.so.conf.d/000-nvidia-wheels.conf \
 && ldconfig \
 && ldconfig -p | grep -q libcudnn.so.9
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64

COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --force-reinstall -e . \
 && useradd --create-home --uid 1000 dreamer \
 && mkdir /logdir \
 && chown dreamer:dreamer /logdir

USER dreamer
# A user of another id has no home here: what libraries cache must have a place all the same.
ENV HOME=/tmp
# The commands answer, and what they import is there: a broken image stops here.
RUN dreamerv2 --help > /dev/null && dreamerv2-plot --help > /dev/null
VOLUME /logdir
ENTRYPOINT ["dreamerv2"]
CMD ["--help"]
