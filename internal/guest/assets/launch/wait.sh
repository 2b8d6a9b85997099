# Lets a Bash wait, fully started, for the script it is to run.
#
# The guest agent starts "bash SCRIPT" before there is a script, with this file as
# BASH_ENV, which Bash reads before it opens the script. We say "r" on descriptor
# 3 when ready. A line there says that the script and its settings are in place;
# without the settings it is a rehearsal, which maps what a restored sandbox has
# not mapped yet. The settings say "g", and take every trace of the waiting away.
# The last command leaves in $_ what a Bash that did not wait has there.
printf r >&3
until [[ -r $AGENTSANDBOX_SETTINGS ]]; do read -r -u 3 || exit 255; done
. "$AGENTSANDBOX_SETTINGS"
: bash
