/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for libFuzzer where only the corpus is replayed: every file of the folders named on the
 * command line goes through LLVMFuzzerTestOneInput once, in a buffer of its exact size so that the
 * address sanitizer sees a read past the end. A folder without any file is an error: it would
 * otherwise pass for a test that ran.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Noreturn void die(const char *what, const char *path)
{
    fprintf(stderr, "replay: %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static void replay_file(const char *path, size_t size)
{
    uint8_t *data = malloc(size ? size : 1);
    FILE *file = fopen(path, "rb");

    if (!data || !file || fread(data, 1, size, file) != size)
        die("cannot read", path);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
}

static int replay_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    char path[4096];
    struct stat st;
    int count = 0;

    if (!dir)
        die("cannot open", folder);
    while ((entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (stat(path, &st) < 0)
            die("cannot stat", path);
        if (!S_ISREG(st.st_mode))
            continue;
        replay_file(path, (size_t)st.st_size);
        count++;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    int i;

    for (i = 1; i < argc; i++) {
        int count = replay_folder(argv[i]);

        printf("%s: %d inputs\n", argv[i], count);
        if (!count)
            return 1;
    }
    return argc < 2;
}
