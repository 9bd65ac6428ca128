/* The first process of every pod: it holds the pod's namespaces and buries what is orphaned in them.
 * In C because one of these lives beside every pod: it costs a few kilobytes where a Go program costs a megabyte.
 *
 *     pause [-i] [-n NETNS [-U]] [-u HOSTNAME] [-s PATH=VALUE]...
 *
 *     -i              with System V IPC and message queues of its own
 *     -n NETNS        in the network namespace this file holds
 *     -U              and in the user namespace that one belongs to, as its root until all is set up
 *     -u HOSTNAME     with this hostname
 *     -s PATH=VALUE   write VALUE into /proc/sys/PATH, once inside
 *
 * Its root is empty and read-only: who shares its processes finds no way to the machine's files through them. Descriptor 3 is read before anything is done (the shim puts the process into its cgroup first);
 * descriptor 4 takes the reason of a failure, and is closed when all is set up. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/nsfs.h>

enum { GO = 3, TELL = 4, NOBODY = 65535 };

static void bury(int sig) {
	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

static void leave(int sig) {
	(void)sig;
	_exit(0);
}

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
	int reason = errno;
	char text[512];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	dprintf(TELL, "%s: %s", text, strerror(reason));
	_exit(1);
}

static void enter(const char *netns, int users) {
	int fd = open(netns, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		fail("open network namespace %s", netns);
	if (users) {
		int owner = ioctl(fd, NS_GET_USERNS);
		if (owner < 0 || setgroups(0, NULL) < 0 || setns(owner, CLONE_NEWUSER) < 0)
			fail("enter the user namespace of %s", netns);
		close(owner);
		if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
			fail("become root of the user namespace");
	}
	if (setns(fd, CLONE_NEWNET) < 0)
		fail("enter network namespace %s", netns);
	close(fd);
}

static void setting(char *pair) {
	char path[256], *value = strchr(pair, '=');
	if (value == NULL) {
		errno = EINVAL;
		fail("sysctl %s", pair);
	}
	*value++ = '\0';
	snprintf(path, sizeof path, "/proc/sys/%s", pair);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) != (ssize_t)strlen(value))
		fail("set sysctl %s to %s", pair, value);
	close(fd);
}

/* The empty root is made on /proc, where the root of any user namespace gets to. */
static void hide(void) {
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		fail("keep mounts to itself");
	if (mount("pause", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=0555") < 0)
		fail("make an empty root");
	if (chdir("/proc") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail("leave the machine's files");
}

static void yield_power(void) {
	for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
	}
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		fail("become nobody");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		fail("give up privileges");
}

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "-v") == 0) {
		puts("knarr pause");
		return 0;
	}
	struct sigaction end = {.sa_handler = leave}, child = {.sa_handler = bury, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
	if (sigaction(SIGINT, &end, NULL) < 0 || sigaction(SIGTERM, &end, NULL) < 0 || sigaction(SIGCHLD, &child, NULL) < 0)
		fail("set signal handlers");
	char go;
	if (read(GO, &go, 1) != 1)
		_exit(1); /* the shim is gone */
	close(GO);

	int spaces = CLONE_NEWNS, users = 0, option;
	const char *netns = NULL, *hostname = NULL;
	while ((option = getopt(argc, argv, "in:u:s:U")) != -1) {
		switch (option) {
		case 'i': spaces |= CLONE_NEWIPC; break;
		case 'n': netns = optarg; break;
		case 'U': users = 1; break;
		case 'u': hostname = optarg; spaces |= CLONE_NEWUTS; break;
		case 's': break; /* below, once inside */
		default: errno = EINVAL; fail("unknown option");
		}
	}
	if (netns != NULL)
		enter(netns, users);
	if (unshare(spaces) < 0)
		fail("make namespaces");
	if (hostname != NULL && sethostname(hostname, strlen(hostname)) < 0)
		fail("set hostname %s", hostname);
	optind = 1;
	while ((option = getopt(argc, argv, "in:u:s:U")) != -1)
		if (option == 's')
			setting(optarg);
	hide();
	yield_power();
	close(TELL);
	for (;;)
		pause();
}
