"""Packaging of SeG-SR for BasicSR."""

import os

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PTH = 'segsr_autoload.pth'


class BuildWithPth(build_py):
    """Puts the .pth file, by which BasicSR finds the plugin, beside the packages, in wheels and editable installs."""

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        folder = self.get_finalized_command('install').install_lib if editable else self.build_lib
        os.makedirs(folder, exist_ok=True)
        self.copy_file(PTH, os.path.join(folder, PTH), preserve_mode=0)

    def get_source_files(self):
        return [*super().get_source_files(), PTH]

    def get_outputs(self, include_bytecode=1):
        outputs = super().get_outputs(include_bytecode)
        if not getattr(self, 'editable_mode', False):
            outputs.append(os.path.join(self.build_lib, PTH))
        return outputs


with open('README.md', encoding='utf-8') as file:
    README = file.read()

setup(
    name='segsr',
    version='0.1.0',
    description='SeG-SR for BasicSR: semantic-guided super-resolution of remote sensing images',
    long_description=README,
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['segsr_arch*', 'segsr_model*']),
    package_data={'segsr_model.report': ['paper.yml']},
    py_modules=['_segsr_autoload'],
    install_requires=[
        'basicsr>=1.4.2; python_version < "3.13"',  # its setup.py fails on 3.13: install it by hand there, see README
        'einops>=0.6',
        'huggingface_hub',
        'lmdb',
        'loralib>=0.1.2',
        'matplotlib>=3.7',
        'numba>=0.60',
        'numpy',
        'open_clip_torch>=3',
        'opencv-python',
        'pillow',
        'pyyaml',
        'rasterio>=1.3',
        'safetensors',
        'setuptools; python_version >= "3.12"',  # BasicSR imports distutils, which only setuptools still has
        'torch>=2.4',
        'torchvision>=0.19',
        'tqdm',
    ],
    extras_require={
        'rar': ['rarfile>=4'],  # rar archives; needs the tool unrar, unar, 7z or bsdtar too
        'metrics': ['pyiqa'],  # LPIPS, DISTS and others
        'onnx': ['onnx', 'onnxruntime', 'torch>=2.5'],  # segsr export --out net.onnx
        'spandrel': ['spandrel'],  # the networks of others' checkpoints, found from their weights
        'test': ['hypothesis>=6', 'onnx', 'onnxruntime', 'pytest>=7', 'rarfile>=4', 'ruff', 'spandrel'],
    },
    entry_points={'console_scripts': ['segsr = segsr_model.cli:main']},
    cmdclass={'build_py': BuildWithPth},
)
