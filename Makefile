# Everything a person or CI does with a checkout. Needs only Debian 12 or Ubuntu 24.04 (or
# newer) and root or sudo for the packages that are missing; see scripts/bootstrap.

PREFIX  ?= /opt/csyncfs
BINDIR  ?= /usr/local/bin
SBINDIR ?= /sbin
MANDIR  ?= /usr/local/share/man
EXTRAS  ?=

BIN = .venv/bin
SERVERS = seaweedfs rclone moto
STORES = directory seaweedfs ceph azurite gcs onedrive-personal onedrive-business onedrive-sharepoint

.PHONY: help demo test test-all lint capabilities bench ceph dialects crash crash-stores model model-stores faults posix programs soak install uninstall lock clean

help:
	@echo "make demo       see it work, in about a minute"
	@echo "make test       linters, types, layers and all tests"
	@echo "make test-all   the same on every kind of store, and the long way (an hour and more)"
	@echo "make lint       linters, types and layers only"
	@echo "make capabilities  the table of README and manual, from the code (maintainers)"
	@echo "make bench      csyncfs beside rclone mount and s3fs"
	@echo "make ceph       the tests of S3 on Ceph as well, which it installs"
	@echo "make dialects   what the probe finds on every S3 server there is here (installs Ceph and Swift)"
	@echo "make crash      kill -9 a thousand times, and look what is left (an hour)"
	@echo "make crash-stores  the same 200 times on a store of each kind (installs Ceph; an hour)"
	@echo "make model      20,000 generated lives of a mount beside an oracle"
	@echo "make model-stores  two mounts that take turns, on a store of each kind (installs Ceph)"
	@echo "make faults     programs at work while the network fails, for a quarter of an hour"
	@echo "make posix      pjdfstest on a mount of a real S3 server (as root)"
	@echo "make programs   PostgreSQL, git, fio, fsx and stress-ng on a mount (as root, hours)"
	@echo "make soak       two mounts, a bad network, kills and evictions for an hour"
	@echo "make install    to $(PREFIX), with mount.csyncfs in $(SBINDIR) (as root);"
	@echo "                EXTRAS=azure,gcs,onedrive for these stores as well"
	@echo "make uninstall  take that away again; caches and journals stay"
	@echo "make lock       lock the newest allowed packages (maintainers)"

demo:
	@scripts/bootstrap runtime
	@$(BIN)/python demo/demo.py

test: lint
	scripts/test-servers $(SERVERS)
	@scripts/test-servers azurite || \
	    echo "azurite cannot be installed from npm here: the tests of Azure are skipped"
	$(BIN)/python -m pytest -n 4 --dist loadscope --no-loadscope-reorder

test-all: lint
	scripts/test-servers $(SERVERS) azurite
	CSYNCFS_LONG=1 $(BIN)/python -m pytest -n 4 --dist loadscope --no-loadscope-reorder

lint:
	scripts/bootstrap dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

capabilities:
	scripts/bootstrap dev
	$(BIN)/python -m tests.support.capability_table

bench:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs rclone
	$(BIN)/python -m tests.bench

ceph:
	scripts/bootstrap dev
	scripts/test-servers ceph
	CSYNCFS_TEST_CEPH=1 $(BIN)/python -m pytest -k ceph tests/backends tests/conformance

dialects:
	scripts/bootstrap dev
	scripts/test-servers $(SERVERS) swift ceph
	CSYNCFS_TEST_CEPH=1 CSYNCFS_TEST_SWIFT=1 $(BIN)/python -m pytest tests/backends/test_s3_dialect.py

crash:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs
	CSYNCFS_CRASH_ROUNDS=$${CSYNCFS_CRASH_ROUNDS:-1000} $(BIN)/python -m pytest -s tests/crash

crash-stores:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs azurite ceph
	CSYNCFS_CRASH_ROUNDS=$${CSYNCFS_CRASH_ROUNDS:-200} CSYNCFS_TEST_CEPH=1 \
	    CSYNCFS_CRASH_STORES="$${CSYNCFS_CRASH_STORES:-$(STORES)}" \
	    $(BIN)/python -m pytest -s tests/crash/test_promises.py

model:
	scripts/bootstrap dev
	$(BIN)/python -m tests.model

model-stores:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs azurite ceph
	CSYNCFS_MODEL_TURNS=$${CSYNCFS_MODEL_TURNS:-150} CSYNCFS_TEST_CEPH=1 \
	    CSYNCFS_MODEL_STORES="$${CSYNCFS_MODEL_STORES:-$(STORES)}" \
	    $(BIN)/python -m pytest tests/model/test_turns.py

faults:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs
	CSYNCFS_LONG=1 $(BIN)/python -m pytest tests/faults tests/kernel/test_never_hangs.py \
	    tests/engines/test_lost_answers.py tests/model/test_lost_replies.py -s

posix:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs
	scripts/pjdfstest $(PJDFSTEST)
	$(BIN)/python -m tests.posix

programs:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs
	scripts/programs $(XFSTESTS)
	$(BIN)/python -m tests.programs $(PROGRAMS)

soak:
	scripts/bootstrap dev
	scripts/test-servers seaweedfs
	$(BIN)/python -m tests.soak

install:
	EXTRAS='$(EXTRAS)' scripts/bootstrap runtime $(PREFIX)
	install -d $(BINDIR) $(SBINDIR) $(MANDIR)/man1 $(MANDIR)/man7 $(MANDIR)/man8
	ln -sf $(PREFIX)/bin/csyncfs $(PREFIX)/bin/csyncfs-admin $(BINDIR)/
	sed 's|@PREFIX@|$(PREFIX)|' mount_helpers/mount.csyncfs > $(SBINDIR)/mount.csyncfs
	chmod 755 $(SBINDIR)/mount.csyncfs
	ln -sf mount.csyncfs $(SBINDIR)/mount.fuse.csyncfs
	install -m 644 man/csyncfs-admin.1 $(MANDIR)/man1/
	install -m 644 man/csyncfs-semantics.7 $(MANDIR)/man7/
	install -m 644 man/mount.csyncfs.8 $(MANDIR)/man8/
	install -m 644 man/csyncfs-fsck.8 $(MANDIR)/man8/
	@echo "installed: try 'man mount.csyncfs'"

uninstall:
	rm -f $(BINDIR)/csyncfs $(BINDIR)/csyncfs-admin
	rm -f $(SBINDIR)/mount.csyncfs $(SBINDIR)/mount.fuse.csyncfs
	rm -f $(MANDIR)/man1/csyncfs-admin.1 $(MANDIR)/man8/mount.csyncfs.8
	rm -f $(MANDIR)/man8/csyncfs-fsck.8
	rm -f $(MANDIR)/man7/csyncfs-semantics.7
	rm -rf $(PREFIX)
	@echo "left alone: /var/lib/csyncfs (journals!) and /var/cache/csyncfs"

lock:
	scripts/lock

clean:
	rm -rf .venv .test-servers build dist *.egg-info .pytest_cache .ruff_cache \
	    .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
