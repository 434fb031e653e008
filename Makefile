# make demo: train, test and draw a small SeG-SR on the sample tiles.  make test: the test suite.
# make soak: the long trials in soak/.
# All create .venv first; use another Python or PyTorch build with e.g. make demo PYTHON=python3.11 TORCH="torch==2.8.0 torchvision"
PYTHON ?= python3
TORCH ?= torch torchvision
VENV ?= .venv
RUN = . $(VENV)/bin/activate &&
DEMO = datasets/demo/x4
TILE = woodland04.png

.PHONY: demo test soak clean

# BasicSR's setup.py wants torch, cython and numpy at build time: without isolation it takes those already installed.
$(VENV)/.installed: setup.py segsr_autoload.pth
	$(PYTHON) -m venv $(VENV)
	$(RUN) python -m pip install --quiet --upgrade pip setuptools wheel cython numpy
	$(RUN) python -m pip install --quiet $(TORCH)
	$(RUN) python -m pip install --quiet --no-build-isolation basicsr
	$(RUN) python -m pip install --quiet -e '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(RUN) segsr prepare folder --source datasets/sample --out datasets/demo --scale 4
	$(RUN) python basicsr/train.py -opt options/demo_SeGSR_EDSR_x4.yml
	$(RUN) python basicsr/test.py -opt options/test_demo_SeGSR_EDSR_x4.yml
	$(RUN) python basicsr/test.py -opt options/test_demo_Bicubic_x4.yml
	$(RUN) segsr maps -opt options/test_demo_SeGSR_EDSR_x4.yml --lr $(DEMO)/test/LR/$(TILE) --hr $(DEMO)/test/HR/$(TILE) \
		--out results/demo.png
	@echo; echo 'SR images: results/test_demo_SeGSR_EDSR_x4/visualization   picture: results/demo.png'
	@$(RUN) segsr scores results/test_demo_Bicubic_x4 results/test_demo_SeGSR_EDSR_x4

test: $(VENV)/.installed
	$(RUN) ruff check .
	$(RUN) python -m pytest

soak: $(VENV)/.installed
	$(RUN) for trial in soak/*.py; do echo "== $$trial"; python -W ignore $$trial || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info
