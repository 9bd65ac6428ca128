/* The first process of every pod: it holds the pod's namespaces and buries what is orphaned in them.
 * In C because one of these lives beside every pod: it costs a few kilobytes where a Go program costs a megabyte. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void bury(int sig) {
	(void)sig;
	while (waitpid(-1, NULL, WNOHANG) > 0) {
	}
}

static void leave(int sig) {
	(void)sig;
	_exit(0);
}

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "-v") == 0) {
		puts("knarr pause");
		return 0;
	}
	struct sigaction end = {.sa_handler = leave}, child = {.sa_handler = bury, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
	if (sigaction(SIGINT, &end, NULL) < 0 || sigaction(SIGTERM, &end, NULL) < 0 || sigaction(SIGCHLD, &child, NULL) < 0) {
		perror("pause: set signal handlers");
		return 1;
	}
	for (;;)
		pause();
}
