# Sets SOURCE_DATE_EPOCH, where it is not set, so that packages of the same source have the same bits:
# to the time of the last commit or, in what a tarball was unpacked to, to the time that all files have.
get_filename_component(source ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
if("$ENV{SOURCE_DATE_EPOCH}" STREQUAL "")
    if(EXISTS ${source}/.git)
        execute_process(COMMAND git log -1 --format=%ct WORKING_DIRECTORY ${source}
            OUTPUT_VARIABLE release_date OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    else()
        file(TIMESTAMP ${source}/CMakeLists.txt release_date "%s" UTC)
    endif()
    set(ENV{SOURCE_DATE_EPOCH} ${release_date})
endif()
