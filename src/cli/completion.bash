# SPDX-License-Identifier: BSD-2-Clause
# Completion of godwit's command line for bash: subcommands, options, names of running VMs and their elastic devices.
# What there is comes from the program itself.

_godwit_words() { # what `godwit $1` prints in column $2, from line $3 on
    godwit $1 2>/dev/null | awk -v column="$2" -v from="$3" 'NR >= from && $column != "" { print $column }'
}

_godwit() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} subcommand=${COMP_WORDS[1]} action=()
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(godwit help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word")
        return
    fi
    case $word in
        -*)
            [ "$subcommand" = snapshot ] && [ "$COMP_CWORD" -gt 2 ] && action=("${COMP_WORDS[2]}")
            mapfile -t COMPREPLY < <(compgen -W "--help $(godwit help "$subcommand" "${action[@]}" 2>/dev/null |
                sed -n 's/^  \(--[a-z-]*\).*/\1/p')" -- "$word")
            return
            ;;
    esac
    case $before in
        --kernel | --initrd | --disk | --pid-file | --base | --map | --binary)
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --first-answer)
            mapfile -t COMPREPLY < <(compgen -W "console: vsock:" -- "$word")
            return
            ;;
    esac
    case $subcommand in
        help) mapfile -t COMPREPLY < <(compgen -W "$(godwit help 2>/dev/null | sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word") ;;
        run | list | top) ;;
        restore) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        save)
            if [ "$COMP_CWORD" = 3 ]; then
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
                return
            fi
            ;;&
        snapshot)
            if [ "$COMP_CWORD" = 2 ]; then
                mapfile -t COMPREPLY < <(compgen -W "$(godwit help snapshot 2>/dev/null |
                    sed -n 's/^  \([a-z]*\) .*/\1/p')" -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -f -- "$word")
            fi
            ;;
        resize)
            if [ "$COMP_CWORD" = 3 ]; then
                mapfile -t COMPREPLY < <(compgen -W "$(godwit memory "$before" 2>/dev/null |
                    awk '$0 ~ /^[^ ]+ +0x/ && $(NF - 1) != "boot" { print $1 }')" -- "$word")
                return
            fi
            ;&
        *)
            if [ "$COMP_CWORD" = 2 ]; then
                mapfile -t COMPREPLY < <(compgen -W "$(_godwit_words list 1 2)" -- "$word")
            fi
            ;;
    esac
}

complete -o default -F _godwit godwit
