// SPDX-License-Identifier: GPL-2.0
/* kvmext version: of the tool, of the kvm modules, and whether they go together. */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <unistd.h>

#include "args.h"
#include "base.h"
#include "commands.h"
#include "host.h"
#include "json.h"
#include "kernel_state.h"
#include "out.h"
#include "table.h"
#include "text.h"

/* The modules' own version, as modinfo has it, or NULL */
static char *module_version(const char *module)
{
	char *path = str("/sys/module/%s/version", module), *line = first_line(path);

	free(path);
	if (!line)
		return NULL;
	printable(line, "");
	return *line ? line : NULL;
}

static bool has_tables(void)
{
	for (int i = 0; i < nr_tables; i++)
		if (kvm_has_table(&tables[i]))
			return true;
	return false;
}

/**
 * struct modules - what is known of kvm_ext's modules
 * @loaded: they are
 * @version: as they say, or NULL
 * @state: of the state file; 0: there is none to be seen, -errno
 * @verdict: whether they go with this tool, for people
 * @match: so they do; a version that cannot be read does not contradict
 */
struct modules {
	bool loaded;
	char *version;
	int state;
	char *verdict;
	bool match;
};

static struct modules modules(void)
{
	struct modules m = { .loaded = has_tables(),
			     .version = module_version("kvm"),
			     .state = state_version(),
			     .match = true };

	if (!m.loaded)
		m.verdict = str("kvm_ext's are not loaded (kvmext doctor says more)");
	else if (m.state < 0)
		m.verdict = str("state file cannot be read: %s", strerror(-m.state));
	else if (!m.state)
		m.verdict = str("no state file: debugfs, kvm-amd or kvm-intel is not there");
	else
		m.match = m.state == STATE_VERSION;
	if (!m.verdict && m.state == INT32_MAX)
		m.verdict =
			str("state file without a version, kvmext reads version %d", STATE_VERSION);
	if (!m.verdict)
		m.verdict = str("state file version %d, %s", m.state,
				m.match ? "which this kvmext reads" :
					  str("kvmext reads version %d", STATE_VERSION));
	return m;
}

static void json(const struct modules *m)
{
	j_open(NULL, '{');
	j_str("kvmext", KVMEXT_VERSION);
	j_str("libbpf", libbpf_version_string() + 1);
	j_num("state_version_read", STATE_VERSION);
	j_open("modules", '{');
	j_bool("loaded", m->loaded);
	j_str("version", m->version);
	if (m->loaded && m->state > 0 && m->state != INT32_MAX)
		j_num("state_version", m->state);
	else
		j_str("state_version", NULL);
	if (m->loaded && m->state > 0)
		j_bool("match", m->match);
	else
		j_str("match", NULL);
	j_close('}');
	/* Left open if there is an error to come. */
	if (m->match)
		j_close('}');
}

int cmd_version(int argc, char **argv)
{
	static const char doc[] =
		"Show the versions of this tool and of kvm_ext's modules, and whether they match.\v"
		"Exits with 4 if the modules that are loaded are of another version. Only root can "
		"read theirs.";
	struct modules m;
	int ret;

	ret = parse_args(argc, argv, NULL, NULL, "", doc, NULL);
	if (ret != OK)
		return ret;
	m = modules();
	if (g.json) {
		json(&m);
	} else {
		print("kvmext %s (libbpf %s)\n", KVMEXT_VERSION, libbpf_version_string() + 1);
		print("kvm modules%s%s: %s\n", m.version ? " " : "", m.version ?: "", m.verdict);
	}
	if (m.match)
		return OK;
	return fail(E_ENV, "install the tool and the kvm modules of one release",
		    "tool and modules do not match: %s", m.verdict);
}
